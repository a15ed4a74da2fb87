// While pictures are drawn, a server that is not reached any more is said where their progress stood.
// Gradio says so in passing, and leaves a Cancel that does nothing.
const UNREACHED = translate('The server cannot be reached. This page goes on by itself once it can.')
let isReached = true

const showReached = () => {
  const text = document.querySelector('#progress-text')
  const cancel = document.querySelector('#cancel')
  if (cancel) cancel.disabled = !isReached
  if (isReached || !text || text.textContent === UNREACHED) return
  text.textContent = UNREACHED
  speak(UNREACHED)
}

// A press on Generate is answered at once. Where nothing comes, Gradio listens no more, and the page is loaded anew: the
// server then shows the run that it has begun.
const PATIENCE_MS = 15000
const noteNow = () => document.querySelector('#status .note')
let press = null // the last one of which nothing has come yet: its time, and the note that stood there

const notePress = () => { press = { atMs: Date.now(), note: noteNow() } }
document.addEventListener('click', ({ target }) => { if (target.closest('#generate')) notePress() }, true)
document.addEventListener('keydown', ({ key, shiftKey, target }) => {
  if (key === 'Enter' && !shiftKey && target.matches('#prompt textarea')) notePress()
}, true)
onChange.push(() => { if (press && (document.querySelector('#progress-text') || noteNow() !== press.note)) press = null })

setInterval(async () => {
  const wasReached = isReached
  isReached = !(isRunning || press) || await fetch('healthz', { cache: 'no-store' }).then(() => true, () => false)
  if (!wasReached || !isReached) showReached()
  if (isReached && press && Date.now() - press.atMs > PATIENCE_MS) location.reload()
}, 3000)
