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

// Gradio counts seconds until something comes of an event, and each of ours is answered at once. Where nothing comes, it
// has stopped listening; the page is loaded anew, and shows what the server has begun.
const CHECK_MS = 3000
const MOST_UNANSWERED = 5 // checks in a row
let unanswered = 0

setInterval(async () => {
  const wasReached = isReached
  const isWaiting = Boolean(document.querySelector(':is(#status, #experiment-status) .progress-text'))
  isReached = !(isRunning || isWaiting) || await fetch('healthz', { cache: 'no-store' }).then(() => true, () => false)
  if (!wasReached || !isReached) showReached()
  unanswered = isWaiting && isReached ? unanswered + 1 : 0
  if (unanswered > MOST_UNANSWERED) location.reload()
}, CHECK_MS)
