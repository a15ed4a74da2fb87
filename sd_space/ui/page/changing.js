// What the next pictures start from: noise, another picture, or the noise of one. The form's hidden fields hold it.
const NOISE = { init_image: '', mask: '', variation_strength: 0 }
let start = NOISE

const setStart = (changes) => {
  const { init_image, mask, variation_strength } = { ...NOISE, ...changes }
  ask('set-start', init_image, mask, variation_strength)
}

const wordsOfStart = (picture, mask, strength) => {
  if (mask) return translate('The next pictures start from this one; only the painted part changes.')
  if (picture) return translate('The next pictures start from this one.')
  if (strength > 0.25) return translate('The next pictures are variations of the one that you chose.')
  return translate('The next pictures are a little different from the one that you chose.')
}

const showStart = () => {
  const chip = document.getElementById('start')
  if (!chip) return
  const { init_image, mask, variation_strength: strength } = start
  const image = chip.querySelector('img')
  if (image.getAttribute('src') !== init_image) image.src = init_image
  chip.hidden = !init_image && !strength
  image.hidden = chip.querySelector('#paint').hidden = !init_image
  chip.classList.toggle('variation', !init_image)
  chip.querySelector('p').textContent = wordsOfStart(init_image, mask, strength)
}

let chipShown = null // the element that shows it
onChange.push(() => {
  const chip = document.getElementById('start')
  if (chip === chipShown) return
  chipShown = chip
  showStart()
})
document.addEventListener('sd_space.start', ({ detail }) => {
  if (detail.init_image !== start.init_image) closePainter()
  start = detail
  showStart()
})

const openedImage = () => viewer()?.querySelector('.media-button img')
const shownRecipe = () => new URLSearchParams(document.querySelector('#recipe .again')?.hash.slice(1))
const mayBeSeen = (image) => JSON.parse(document.querySelector('#record [data-run]')?.dataset.pictures || '[]')
  .some((path) => decodeURI(image.src).endsWith(path))

// A picture that is not shown is no start, and one seed does not tell the noise of a picture that has begun with another.
onChange.push(() => {
  const image = openedImage(), change = document.getElementById('change-it')
  if (!change || !image) return
  const isStart = mayBeSeen(image)
  if (change.hidden === isStart) change.hidden = !isStart
  const group = change.parentElement.querySelector('.group'), varies = isStart && !shownRecipe().has('init_image')
  if (group.hidden === varies) group.hidden = !varies
})

document.addEventListener('click', ({ target }) => {
  const prompt = document.querySelector('#prompt textarea')
  if (target.id === 'change-it') {
    setStart({ init_image: openedImage().src })
    speak(translate('The next pictures start from this one.'))
    showPrompt()
    prompt.focus({ preventScroll: true })
  } else if (target.id === 'drop-start') {
    if (!start.init_image) document.getElementById('random-seeds').click()
    setStart({})
    prompt.focus()
  } else if (target.matches('#picture-actions .vary')) {
    const recipe = shownRecipe()
    recipe.set('seed', document.querySelector('#picture-actions .copy-seed').dataset.copy)
    recipe.set('variation_strength', target.dataset.strength)
    recipe.delete('variation_seed')
    ask('ask-variations', recipe.toString())
    showPrompt()
  }
})

// No link holds a picture.
const warnWithoutSource = (recipe) => {
  if (new URLSearchParams(recipe).has('init_image')) notify(translate(
    'These settings started from a picture that they do not hold. Open it and press “Change it”, or choose it under More options.'
  ), 12)
}
warnWithoutSource(location.hash.slice(1))
