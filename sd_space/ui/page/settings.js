// Settings out of a picture that is chosen or dropped, or out of a text that is pasted. Pictures stay in the browser.
const fillFrom = async (file) => {
  ask('ask-settings', file.size < 50e6 ? await parametersOf(file) : '')
  showPrompt()
}
const isSettings = (text) => /^[ \t]*Steps: *\d+,/m.test(text) && /\b(Sampler|CFG scale|Seed|Size): /.test(text)
let pasted = { text: '' } // what is offered, and where it was to go

document.addEventListener('change', ({ target }) => {
  if (!target.matches('#chooser input') || !target.files.length) return
  fillFrom(target.files[0])
  target.value = '' // so that the same file can be chosen again
})

for (const kind of ['dragover', 'drop']) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes('Files') || event.target.closest('#chooser')) return
    event.preventDefault() // else the browser would leave the page for the picture
    const [file] = event.dataTransfer.files
    if (kind !== 'drop' || !file) return
    const use = event.target.closest('#own-picture') ? startFrom : event.target.closest('#checking') ? check : fillFrom
    use(file)
  })
}

const showOffer = (isShown) => {
  const offer = document.getElementById('offer')
  if (offer) offer.hidden = !isShown
  return offer
}

document.addEventListener('paste', (event) => {
  if (!event.target.matches?.('#prompt textarea')) return
  const text = event.clipboardData.getData('text/plain')
  if (!isSettings(text)) return
  event.preventDefault()
  pasted = { text, start: event.target.selectionStart, end: event.target.selectionEnd }
  showOffer(true)?.querySelector('button').focus()
})

document.addEventListener('click', ({ target }) => {
  if (!['use-settings', 'keep-words'].includes(target.id)) return
  const prompt = document.querySelector('#prompt textarea')
  showOffer(false)
  prompt.focus()
  if (target.id === 'use-settings') return ask('ask-settings', pasted.text.slice(0, MAX_TEXT + 1))
  const room = prompt.maxLength - prompt.value.length + pasted.end - pasted.start
  prompt.setRangeText(pasted.text.slice(0, room), pasted.start, pasted.end, 'end')
  prompt.dispatchEvent(new Event('input', { bubbles: true }))
})
