// The one live region of the page. It is there from the start: what is inserted with its words is often not spoken.
const announcer = document.createElement('p')
announcer.id = 'announcer'
announcer.role = 'status'
document.body.append(announcer)
let shownUntil = 0 // when a message that everybody sees goes away again

const speak = (text) => { announcer.textContent = text }
const notify = (text, seconds = 6) => {
  speak(text)
  announcer.classList.add('seen')
  shownUntil = performance.now() + seconds * 1000
  setTimeout(() => {
    if (performance.now() >= shownUntil) announcer.classList.remove('seen')
  }, seconds * 1000)
}
