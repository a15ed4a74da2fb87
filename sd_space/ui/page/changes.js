// What follows the page as it changes: each of these functions is called after a change, and again after its own.
const onChange = []
new MutationObserver(() => onChange.forEach((follow) => follow())).observe(document.body, {
  childList: true, subtree: true, attributes: true, characterData: true,
})

// A change that is none must not be made: it would be followed again, without end.
const setAttribute = (element, name, value) => {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value)
}

// Gradio's accordions do not say whether they are open, and have their arrow read aloud.
onChange.push(() => {
  for (const button of document.querySelectorAll('button.label-wrap')) {
    setAttribute(button, 'aria-expanded', String(button.matches('.open')))
    const arrow = button.querySelector('.icon')
    if (arrow) setAttribute(arrow, 'aria-hidden', 'true')
  }
})
