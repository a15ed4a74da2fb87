// Experiments: two pictures of one laid over each other, and a word at the start and at the end.
let isExperimenting = false
let drawnBy = null // the button that was pressed for it, which is not seen meanwhile

onChange.push(() => {
  const isNow = Boolean(document.querySelector('#experiment-pictures [data-drawing]'))
  if (isNow === isExperimenting) return
  isExperimenting = isNow
  const note = document.querySelector('#experiment-status .note:not(.error)') // an error is an alert itself
  const stop = document.getElementById('stop-experiment')
  focusIfLost(isNow ? stop : drawnBy)
  if (isNow) {
    speak(translate('The experiment is being drawn.'))
    stop.scrollIntoView() // what is drawn lies below it
  } else if (note) speak(note.textContent)
})
document.addEventListener('change', ({ target }) => {
  if (!target.matches('#choose-two select')) return
  document.querySelector(`#two-compared [alt="${target.ariaLabel}"]`).src = target.value
})
document.addEventListener('click', ({ target }) => {
  drawnBy = target.closest('.draws') ?? drawnBy
  const name = target.dataset.limitation
  if (!name) return
  const button = document.getElementById('ask-limitation')
  button.handed = [name]
  button.click()
})
