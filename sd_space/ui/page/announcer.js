// The one live region of the page. It is there from the start: what is inserted with its words is often not spoken.
const announcer = document.createElement('p')
announcer.id = 'announcer'
announcer.role = 'status'
// A message for every eye keeps its own words, whatever else is spoken meanwhile.
const toast = Object.assign(document.createElement('p'), { id: 'toast', hidden: true, ariaHidden: 'true' })
document.body.append(announcer, toast)
let hiding = 0 // the timer after which it goes away again

const speak = (text) => { announcer.textContent = text }
const notify = (text, seconds = 6) => {
  speak(text)
  toast.textContent = text
  toast.hidden = false
  clearTimeout(hiding)
  hiding = setTimeout(() => { toast.hidden = true }, seconds * 1000)
}
