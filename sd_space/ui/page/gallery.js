let openedCaption = '' // of the picture that is shown large

document.addEventListener('focusin', ({ target }) => {
  // Gradio focuses the small button below an opened picture, and the browser then scrolls the picture itself away.
  const preview = target.closest('#gallery .preview')
  if (preview) requestAnimationFrame(() => preview.scrollIntoView({ block: 'nearest' }))
})

new MutationObserver(() => {
  // Gradio labels a picture's button "Thumbnail 1 of 4"; a screen reader should read the caption instead.
  const buttons = [...document.querySelectorAll('#gallery .thumbnail-lg')]
  for (const button of buttons) {
    const caption = button.querySelector('.caption-label')
    if (caption && button.ariaLabel !== caption.textContent) button.ariaLabel = caption.textContent
  }

  const preview = document.querySelector('#gallery .preview')
  const grid = document.querySelector('#gallery .grid-wrap') // lies behind the opened picture
  if (grid && grid.inert !== Boolean(preview)) grid.inert = Boolean(preview)
  if (!preview && openedCaption) focusIfLost(buttons.find((button) => button.ariaLabel === openedCaption))
  openedCaption = preview?.querySelector('.caption')?.textContent.trim() || ''
}).observe(document.body, { childList: true, subtree: true, attributes: true })
