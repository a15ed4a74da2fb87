// What the status line asks of the visitor: the field to correct, and a press for new seeds.
const fieldOf = (note) => document.querySelector(`.field-${note.dataset.field}`)?.querySelector('textarea, input')
let correctedNote = null // the note whose field has the focus already

onChange.push(() => {
  const note = document.querySelector('#status .note[data-field]')
  if (!note || note === correctedNote) return
  const input = fieldOf(note)
  if (!input?.checkVisibility()) {
    const options = document.querySelector('#options > button:not(.open)')
    if (options) options.click()
    return
  }
  correctedNote = note
  setAttribute(input, 'aria-invalid', 'true')
  input.focus()
})
document.addEventListener('input', ({ target }) => {
  const note = document.querySelector('#status .note[data-field]')
  if (!note || !target.closest(`.field-${note.dataset.field}`)) return
  fieldOf(note).removeAttribute('aria-invalid')
  note.hidden = true
})
document.addEventListener('click', ({ target }) => {
  if (target.id !== 'new-seeds') return
  document.querySelector('#random-seeds').click()
  requestAnimationFrame(() => requestAnimationFrame(() => document.querySelector('#generate').click()))
})
