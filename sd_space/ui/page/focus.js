// A button that disappears takes the keyboard's focus with it: the focus then goes to the element named here.
const nextFocus = {
  accept: '#prompt textarea', generate: '#cancel', cancel: '#generate', leave: '#stay', stay: '#leave', withdraw: '#agree input',
}
// The id of such a button that has the focus, or had it when it disappeared: the gate is there before this script.
let lastFocused = document.activeElement?.id in nextFocus ? document.activeElement.id : ''

// Where the focus was led, until the visitor goes on from there: what Gradio mounts anew loses it once more.
let ledTo = ''

const focusIfLost = (element) => {
  const active = document.activeElement // what has disappeared keeps the focus until the page is painted anew
  if (element && (active === document.body || !active.checkVisibility())) element.focus({ preventScroll: true })
}

document.addEventListener('focusin', ({ target }) => {
  lastFocused = target.id in nextFocus ? target.id : ''
  if (ledTo && !target.matches(ledTo)) ledTo = ''
})
document.addEventListener('focusout', ({ target }) => setTimeout(() => {
  const isUsable = target.isConnected && target.checkVisibility() && !target.disabled
  if (lastFocused === target.id && isUsable) lastFocused = ''
}))
for (const event of ['keydown', 'pointerdown']) document.addEventListener(event, () => { ledTo = '' }, true)

onChange.push(() => {
  const isGone = lastFocused && !document.getElementById(lastFocused)?.checkVisibility()
  const next = isGone && document.querySelector(nextFocus[lastFocused])
  if (next && next.checkVisibility()) {
    if (lastFocused === 'accept' || lastFocused === 'withdraw') window.scrollTo(0, 0)
    ledTo = nextFocus[lastFocused]
    lastFocused = ''
  }
  if (ledTo) focusIfLost(document.querySelector(ledTo))
})
