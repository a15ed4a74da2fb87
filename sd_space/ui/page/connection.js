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

// Gradio counts seconds from a press until something comes of it, which is at once. Where nothing comes once the server
// has taken the press, Gradio has stopped listening: the page is loaded anew, and shows what the server has begun. It is
// not where the browser keeps nothing (the acceptance would be gone), and once until something comes.
const CHECK_MS = 3000
const MOST_UNANSWERED = 5 // checks in a row
const LOADED_ANEW = 'sd_space.loaded_anew'
const isWaiting = () => Boolean(document.querySelector(':is(#status, #experiment-status) .progress-text'))
let isTaken = false // the server has answered the press itself
let unanswered = 0

new PerformanceObserver((list) => {
  if (list.getEntries().some(({ name }) => name.includes('/queue/join'))) isTaken = true
}).observe({ type: 'resource' })
onChange.push(() => {
  if (!isTaken || isWaiting()) return
  isTaken = false
  try { sessionStorage.removeItem(LOADED_ANEW) } catch (error) {}
})

const loadAnew = () => {
  try {
    if (sessionStorage.getItem(LOADED_ANEW)) return
    sessionStorage.setItem(LOADED_ANEW, 'yes')
  } catch (error) { return }
  location.reload()
}
const askServer = () => fetch('healthz', { cache: 'no-store', signal: AbortSignal.timeout(CHECK_MS) })
  .then(({ ok }) => ok, () => false)

const checkConnection = async () => {
  const wasReached = isReached
  isReached = !(isRunning || isWaiting()) || await askServer()
  if (!wasReached || !isReached) showReached()
  unanswered = isReached && isTaken && isWaiting() ? unanswered + 1 : 0
  if (unanswered > MOST_UNANSWERED) loadAnew()
  setTimeout(checkConnection, CHECK_MS)
}
setTimeout(checkConnection, CHECK_MS)
