() => {
  // What goes away takes the focus with it: it goes on to what stands there now.
  const next = { accept: '#prompt textarea', withdraw: '#agree input', generate: '#cancel', cancel: '#generate' }
  let held = '' // the id of the one of these that has the focus, or had it when it went
  let opened = '' // the caption of the picture that is seen large
  const hand = (to) => { if (to && document.activeElement === document.body) to.focus({ preventScroll: true }) }

  document.addEventListener('focusin', ({ target }) => {
    held = target.id in next ? target.id : ''
    // Gradio focuses the small button below an opened picture, and the browser then scrolls the picture itself away.
    const preview = target.closest('#gallery .preview')
    if (preview) requestAnimationFrame(() => preview.scrollIntoView({ block: 'nearest' }))
  })
  document.addEventListener('focusout', ({ target }) => setTimeout(() => {
    if (held === target.id && target.isConnected && target.checkVisibility() && !target.disabled) held = ''
  }))

  new MutationObserver(() => {
    // Gradio names a picture's button "Thumbnail 1 of 4", whatever its caption says; who only hears it wants the caption.
    const buttons = [...document.querySelectorAll('#gallery .thumbnail-lg')]
    for (const button of buttons) {
      const caption = button.querySelector('.caption-label')
      if (caption && button.ariaLabel !== caption.textContent) button.ariaLabel = caption.textContent
    }

    const isGone = held && !document.getElementById(held)?.checkVisibility()
    const to = isGone && document.querySelector(next[held])
    if (to && to.checkVisibility()) {
      if (held === 'accept' || held === 'withdraw') window.scrollTo(0, 0)
      held = ''
      hand(to)
    }

    const preview = document.querySelector('#gallery .preview')
    const grid = document.querySelector('#gallery .grid-wrap') // which lies behind the opened picture
    if (grid && grid.inert !== Boolean(preview)) grid.inert = Boolean(preview)
    if (!preview && opened) hand(buttons.find((button) => button.ariaLabel === opened))
    opened = preview?.querySelector('.caption')?.textContent.trim() || ''
  }).observe(document.body, { childList: true, subtree: true, attributes: true })

  // An acceptance that is withdrawn is withdrawn in every tab.
  window.addEventListener('storage', ({ key, newValue }) => {
    if (key === 'sd_space.token' && !newValue) location.reload()
  })
}
