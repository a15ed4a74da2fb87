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

setInterval(async () => {
  const wasReached = isReached
  isReached = !isRunning || await fetch('healthz', { cache: 'no-store' }).then(() => true, () => false)
  if (!wasReached || !isReached) showReached()
}, 3000)
