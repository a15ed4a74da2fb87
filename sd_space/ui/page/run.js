// A run can be followed by ear, by the tab's title and by a sound: its start, its place in line, each quarter, its end.
const plainTitle = document.title
let isRunning = false
let spokenPlace = '0'
let spokenQuarter = 0

const followRun = (text) => {
  if (!isRunning) speak(translate('Your pictures are on their way.'))
  isRunning = true
  const words = text.textContent
  const { place, done } = text.dataset
  const quarter = Math.floor(4 * done)
  if (place !== '0' && place !== spokenPlace) speak(words)
  else if (quarter > spokenQuarter && quarter < 4) speak(`${translate('{share} percent.', { share: 25 * quarter })} ${words}`)
  spokenPlace = place
  spokenQuarter = Math.max(quarter, spokenQuarter)
  const left = text.dataset.left || `${Math.round(100 * done)} %`
  setTitle(`(${left}) ${plainTitle}`)
}
const endRun = (note) => {
  isRunning = false
  spokenPlace = '0'
  spokenQuarter = 0
  if (note && !note.matches('.error')) speak(document.querySelector('#status').innerText) // an error is an alert itself
  const count = Number(note?.dataset.count)
  const pictures = count === 1 ? translate('1 picture') : translate('{count} pictures', { count })
  setTitle(count ? `✓ ${pictures} · ${plainTitle}` : plainTitle)
  if (count) playChime()
}
const setTitle = (title) => { if (document.title !== title) document.title = title }

onChange.push(() => {
  const text = document.querySelector('#progress-text')
  if (text) return followRun(text)
  const note = document.querySelector('#status .note')
  if (isRunning && (note || document.querySelector('#gate')?.checkVisibility())) endRun(note)
})
for (const type of ['pointerdown', 'keydown']) {
  document.addEventListener(type, () => { if (document.title.startsWith('✓')) document.title = plainTitle })
}
document.addEventListener('keydown', ({ key, shiftKey, target }) => {
  const isSubmit = key === 'Enter' && !shiftKey && target.matches('#prompt textarea')
  if (isSubmit && document.querySelector('#cancel')?.checkVisibility()) {
    notify(translate('Your pictures are still being drawn; press Cancel first to draw something else.'))
  }
})
