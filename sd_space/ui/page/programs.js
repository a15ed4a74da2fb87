// Lines for programs of the visitor's own, with the token only while they are shown.
const rootAddress = new URL('.', location.href.replace(/[?#].*/, '')).href.replace(/[/]$/, '')

document.addEventListener('sd_space.programs', ({ detail: token }) => {
  const programs = document.getElementById('programs')
  programs.hidden = !programs.hidden
  document.getElementById('show-programs').setAttribute('aria-expanded', String(!programs.hidden))
  programs.querySelector('.root').textContent = `${rootAddress}/v1`
  for (const snippet of programs.querySelectorAll('.snippet')) {
    const code = snippet.querySelector('code')
    code.dataset.template ??= code.textContent
    const lines = code.dataset.template.replaceAll('{root}', rootAddress).replaceAll('{token}', token)
    code.textContent = programs.hidden ? code.dataset.template : lines
    snippet.querySelector('button').dataset.copy = code.textContent
  }
})
// Behind a login there are no such routes.
if (window.gradio_config?.username) document.documentElement.classList.add('has-login')
