// The picture that is shown large: its keys, swipes and focus, and what can be done with it.
let openedIndex = -1
const viewer = () => document.querySelector('#gallery .preview')
const viewerThumbnails = () => [...viewer().querySelectorAll('.thumbnail-item')]

const offerActions = (preview) => {
  const actions = document.querySelector('#picture-actions')
  if (actions && actions.hidden === Boolean(preview)) actions.hidden = !preview
  if (!actions || !preview) return
  const url = preview.querySelector('.media-button img')?.getAttribute('src')
  const [, seed, variation] = preview.querySelector('.caption')?.textContent.match(/(\d+)(?:, \p{L}+ (\d+))?/u) || []
  const link = new URLSearchParams(document.querySelector('#recipe .again')?.hash.slice(1))
  link.set('seed', seed)
  link.set('num_images_per_prompt', 1)
  if (variation) link.set('variation_seed', variation)
  setAttribute(actions.querySelector('.copy-seed'), 'data-copy', seed || '')
  setAttribute(actions.querySelector('.copy-link'), 'data-copy', pageLink(`#${link}`))
  for (const anchor of actions.querySelectorAll('a')) setAttribute(anchor, 'href', url || '')
}

onChange.push(() => {
  const preview = viewer()
  const grid = document.querySelector('#gallery .grid-wrap') // lies behind the opened picture
  if (grid && grid.inert !== Boolean(preview)) grid.inert = Boolean(preview)
  if (!preview && openedIndex >= 0) focusIfLost(grid?.querySelectorAll('.thumbnail-lg')[openedIndex])
  openedIndex = preview ? viewerThumbnails().findIndex((button) => button.matches('.selected')) : -1
  offerActions(preview)
})

document.addEventListener('focusin', ({ target }) => {
  // Gradio focuses the small button below an opened picture, and the browser then scrolls the picture itself away.
  const preview = target.closest('#gallery .preview')
  if (preview) requestAnimationFrame(() => preview.scrollIntoView({ block: 'nearest' }))
})
// Fullscreen and Download drop the focus, and with it the keys.
const keepFocus = () => setTimeout(() => { if (viewer()) focusIfLost(viewerThumbnails()[openedIndex]) })
document.addEventListener('fullscreenchange', keepFocus)
document.addEventListener('focusout', ({ target }) => { if (target.closest('#gallery .preview')) keepFocus() })

let swipeStart = null
document.addEventListener('touchstart', ({ target, touches }) => {
  swipeStart = target.closest('#gallery .preview') && touches.length === 1 ? touches[0] : null
}, { passive: true })
document.addEventListener('touchend', ({ changedTouches: [end] }) => {
  if (!swipeStart || !viewer()) return
  const [x, y] = [end.clientX - swipeStart.clientX, end.clientY - swipeStart.clientY]
  if (Math.abs(x) < 40 || Math.abs(x) < 2 * Math.abs(y)) return
  const code = x < 0 ? 'ArrowRight' : 'ArrowLeft'
  viewer().dispatchEvent(new KeyboardEvent('keydown', { code, key: code, bubbles: true }))
})
