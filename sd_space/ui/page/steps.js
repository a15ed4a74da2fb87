// The steps of pictures: a slider goes through them, and a button moves the slider.
let stepTimer = 0
const showStep = (player, number) => {
  const slider = player.querySelector('input')
  slider.value = number
  for (const frame of player.querySelectorAll('[data-frame]')) frame.hidden = frame.dataset.frame !== slider.value
  const { label } = player.querySelector('[data-frame]:not([hidden])').dataset
  slider.ariaValueText = player.querySelector('.controls span').textContent = label
}
const pauseSteps = (player) => {
  clearInterval(stepTimer)
  stepTimer = 0
  const button = player.querySelector('button')
  button.textContent = button.dataset.play
}
const playSteps = (player) => {
  const slider = player.querySelector('input'), button = player.querySelector('button')
  if (slider.value === slider.max) showStep(player, 0)
  button.textContent = button.dataset.pause
  stepTimer = setInterval(() => {
    if (player.isConnected) showStep(player, Number(slider.value) + 1)
    if (!player.isConnected || slider.value === slider.max) pauseSteps(player)
  }, 700)
}

document.addEventListener('click', ({ target }) => {
  if (!target.matches('#steps-player button')) return
  const player = target.closest('#steps-player')
  if (stepTimer) pauseSteps(player)
  else playSteps(player)
})
document.addEventListener('input', ({ target }) => {
  if (!target.matches('#steps-player input')) return
  const player = target.closest('#steps-player')
  pauseSteps(player)
  showStep(player, target.value)
})
