// Gradio labels a picture's button "Thumbnail 1 of 4", and the picture by its seed; this says what it shows.
const labelPictures = () => {
  const prompt = document.querySelector('#recipe .again')?.dataset.prompt || ''
  const buttons = [...document.querySelectorAll('#gallery .grid-wrap .thumbnail-lg')]
  for (const [index, button] of buttons.entries()) {
    const caption = button.querySelector('.caption-label')?.textContent.trim() || ''
    const numbers = { number: index + 1, count: buttons.length }
    const label = translate('Picture {number} of {count}: {prompt}. {caption}', { ...numbers, prompt, caption })
    setAttribute(button, 'aria-label', label)
    setAttribute(button.querySelector('img'), 'alt', label)
  }
  // The words beside an example's picture say the same.
  for (const picture of document.querySelectorAll('#examples img')) setAttribute(picture, 'alt', '')
  for (const words of document.querySelectorAll('#examples button, .english')) setAttribute(words, 'lang', 'en')
}
onChange.push(labelPictures)

// A browser says nothing that is understood when a picture was deleted on the server meanwhile.
document.addEventListener('click', async ({ target }) => {
  const url = target.closest('#picture-actions a, body > a[download]')?.href // Gradio's button makes a link for a moment
  if (!url) return
  const answer = await fetch(url, { method: 'HEAD' }).catch(() => null)
  if (answer?.status === 404) notify(translate('These pictures were deleted on the server; Generate draws them again.'))
})
