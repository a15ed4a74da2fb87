// What follows the page as it changes: each of these functions is called after a change, and again after its own.
const onChange = []
new MutationObserver(() => onChange.forEach((follow) => follow())).observe(document.body, {
  childList: true, subtree: true, attributes: true, characterData: true,
})

// A change that is none must not be made: it would be followed again, without end.
const setAttribute = (element, name, value) => {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value)
}
