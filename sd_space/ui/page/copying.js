// Copying, with a word that it was done. A link carries its recipe behind the #, which no server is ever sent.
const pageLink = (hash) => new URL(hash, location.href.replace(/[?#].*/, '')).href

const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text)
  } catch (error) { // not allowed in some frames, and without TLS
    const field = document.body.appendChild(document.createElement('textarea'))
    field.value = text
    field.select()
    document.execCommand('copy')
    field.remove()
  }
  notify(translate('Copied.'))
}

document.addEventListener('click', (event) => {
  const link = event.target.closest('#recipe .again')
  const button = event.target.closest('[data-copy]')
  if (link) event.preventDefault()
  if (link) copy(pageLink(link.hash))
  else if (button) copy(button.dataset.copy)
})
// The browser loads nothing anew for an address that differs behind the # alone.
addEventListener('hashchange', () => { if (location.hash.includes('=')) location.reload() })
