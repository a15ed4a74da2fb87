// What the server says while a prompt is written: how much of it is read, and how long pictures would take.
// Events whose answers it wants are asked for by pressing hidden buttons; `handed` are the words that go with them.
const ask = (id, ...handed) => {
  const button = document.getElementById(id)
  if (button) Object.assign(button, { handed }).click()
}

const showPrompt = () => document.getElementById('ask')?.scrollIntoView({ block: 'nearest' })

// A token has a byte or more: a short text in Latin letters is read whole, and need not be sent while it is written.
const mayNeedWords = (text) => new TextEncoder().encode(text).length >= 60 || /(?!\p{Script=Latin})\p{L}/u.test(text)
let readingTimer = 0

document.addEventListener('sd_space.prompt', ({ detail: text }) => {
  clearTimeout(readingTimer)
  if (mayNeedWords(text || '') || document.querySelector('#reading .aid')) {
    readingTimer = setTimeout(() => ask('ask-reading'), 400)
  }
})

const askOutlook = async () => {
  const isIdle = document.visibilityState === 'visible' && document.getElementById('generate')?.checkVisibility()
  // Without a server the event would end in a message of Gradio's.
  if (isIdle && await fetch('readyz').then((answer) => answer.ok, () => false)) ask('ask-outlook')
}
setInterval(askOutlook, 15000)

let wasIdle = false // whether Generate could be pressed
onChange.push(() => {
  const prompt = document.querySelector('#prompt textarea')
  if (prompt && !prompt.hasAttribute('aria-describedby')) prompt.setAttribute('aria-describedby', 'reading')
  const isIdle = Boolean(document.getElementById('generate')?.checkVisibility())
  if (isIdle && !wasIdle) askOutlook()
  wasIdle = isIdle
})
