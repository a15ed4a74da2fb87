// Before and after: an opened picture over the one that it started from, as long as this page knows that one.
const startOf = new Map() // the start of each run that was drawn from a picture since the page was opened
let drawnFrom = '' // what the run that is being drawn started from
let runBefore = '' // and which one was on the page until then
let isBeingDrawn = false

const comparison = () => document.getElementById('comparison')
const showComparison = (isShown) => {
  if (comparison().hidden === isShown) comparison().hidden = !isShown
  setAttribute(document.getElementById('compare'), 'aria-expanded', String(isShown))
}
const reveal = (figure) => {
  figure.querySelector('.before').style.clipPath = `inset(0 ${100 - figure.querySelector('input').value}% 0 0)`
}

onChange.push(() => {
  const isDrawing = Boolean(document.getElementById('progress-text'))
  const record = document.querySelector('#record [data-run]'), image = openedImage()
  if (isDrawing && !isBeingDrawn) [drawnFrom, runBefore] = [start.init_image, record?.dataset.run]
  isBeingDrawn = isDrawing
  if (!comparison() || isDrawing) return
  const isChanged = record && new URLSearchParams(record.dataset.recipe).has('init_image')
  if (isChanged && drawnFrom && record.dataset.run !== runBefore) startOf.set(record.dataset.run, drawnFrom)
  const before = isChanged && image && mayBeSeen(image) ? startOf.get(record.dataset.run) : ''
  const button = document.getElementById('compare')
  if (button.hidden === Boolean(before)) button.hidden = !before
  if (!before) return showComparison(false)
  setAttribute(comparison().querySelector('.before'), 'src', before)
  setAttribute(comparison().querySelector('.after'), 'src', image.src)
})

document.addEventListener('click', ({ target }) => {
  if (target.id === 'compare') {
    showComparison(comparison().hidden)
    reveal(comparison())
    if (!comparison().hidden) comparison().scrollIntoView({ block: 'nearest' })
  } else if (target.closest('#withdraw')) {
    startOf.clear()
    for (const image of document.querySelectorAll('.comparison img')) image.removeAttribute('src')
  }
})
document.addEventListener('input', ({ target }) => {
  if (target.matches('.comparison input')) reveal(target.closest('.comparison'))
})
