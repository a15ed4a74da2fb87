// A browser says nothing that is understood when a picture was deleted on the server meanwhile.
document.addEventListener('click', async ({ target }) => {
  const url = target.closest('#picture-actions a, body > a[download]')?.href // Gradio's button makes a link for a moment
  if (!url) return
  const answer = await fetch(url, { method: 'HEAD' }).catch(() => null)
  if (answer?.status === 404) notify('These pictures were deleted on the server; Generate draws them again.')
})
