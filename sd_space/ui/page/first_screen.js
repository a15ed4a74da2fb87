// Lets Gradio's components take the place of the document's first screen, with what the visitor has done on it.
{
  const screen = document.getElementById('first-screen')
  const [box, button] = screen.querySelectorAll('input, button')
  const theme = new URLSearchParams(location.search).get('__theme')
  if (['light', 'dark'].includes(theme)) screen.style.colorScheme = theme
  let isPressed = false

  box.addEventListener('change', () => { button.disabled = !box.checked })
  button.addEventListener('click', () => {
    isPressed = button.disabled = box.disabled = true
    button.textContent = translate('One moment…')
  })

  // Whatever has the focus, and what is unfolded, by their order in both gates.
  const parts = (gate) => [...gate.querySelectorAll('a, summary, input, button')]
  const handOver = (gate) => {
    const [input, accept] = gate.querySelectorAll('input, #accept')
    // A tick is passed on when the page's script is there, and so are Gradio's events, of which one enables the button.
    if (document.getElementById('announcer') && input.checked !== box.checked) input.click()
    if (box.checked && accept.disabled) return requestAnimationFrame(() => handOver(gate))
    const focused = parts(screen.querySelector('#first-gate')).indexOf(document.activeElement)
    gate.querySelector('details').open = screen.querySelector('details').open
    gate.style.visibility = 'visible' // before it can be seen: what is hidden takes no focus, and the next key is lost
    if (focused >= 0) parts(gate)[focused].focus()
    screen.remove()
    if (isPressed) requestAnimationFrame(() => {
      accept.focus() // from where the page's script leads on
      accept.click()
    })
  }

  const isReturning = document.documentElement.classList.contains('returning')
  const lookForGradio = new MutationObserver(() => {
    const gate = document.getElementById('gate')
    if (isReturning ? !document.querySelector('#masthead h1') : !gate?.matches(':has(ol):has(#agree):has(#accept)')) return
    lookForGradio.disconnect()
    if (isReturning) screen.remove()
    else handOver(gate)
  })
  lookForGradio.observe(document.body, { childList: true, subtree: true })
}
