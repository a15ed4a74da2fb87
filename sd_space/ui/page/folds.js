// A fold that a visitor has opened or closed stays so when the page is loaded anew, in this tab. Its words are its name.
const FOLDS = 'sd_space.folds'
const keptFolds = () => {
  try { return JSON.parse(sessionStorage.getItem(FOLDS)) ?? {} } catch (error) { return {} }
}
const keepFold = (name, isOpen) => {
  try { sessionStorage.setItem(FOLDS, JSON.stringify({ ...keptFolds(), [name]: isOpen })) } catch (error) {}
}

// Gradio's accordions do not say whether they are open, and have their arrow read aloud.
const followed = new WeakSet()
onChange.push(() => {
  for (const button of document.querySelectorAll('button.label-wrap')) {
    const name = button.textContent
    const isOpen = button.matches('.open')
    if (!followed.has(button)) {
      followed.add(button)
      if ((keptFolds()[name] ?? isOpen) !== isOpen) button.click()
    } else if (button.ariaExpanded !== String(isOpen)) {
      keepFold(name, isOpen)
    }
    setAttribute(button, 'aria-expanded', String(isOpen))
    const arrow = button.querySelector('.icon')
    if (arrow) setAttribute(arrow, 'aria-hidden', 'true')
  }
})
