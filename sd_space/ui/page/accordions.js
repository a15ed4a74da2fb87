// Gradio's accordions do not say whether they are open, and have their arrow read aloud.
onChange.push(() => {
  for (const button of document.querySelectorAll('button.label-wrap')) {
    setAttribute(button, 'aria-expanded', String(button.matches('.open')))
    const arrow = button.querySelector('.icon')
    if (arrow) setAttribute(arrow, 'aria-hidden', 'true')
  }
})
