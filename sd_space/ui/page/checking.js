// Checking a picture's marks: it is read here, and sent to the server, which keeps nothing of it.
let checked = null // the file that was checked last

const asDataUri = (file) => new Promise((resolve, reject) => {
  const reader = Object.assign(new FileReader(), { onload: () => resolve(reader.result), onerror: reject })
  reader.readAsDataURL(file)
})

const check = async (file) => {
  if (file.size > document.getElementById('check').dataset.maxBytes) {
    return notify(translate('That file is larger than 5.9 MB; choose a smaller one.'))
  }
  checked = file
  notify(translate('Reading the picture’s marks…'), 2)
  ask('ask-check', await asDataUri(file))
}

document.addEventListener('change', ({ target }) => {
  if (!target.matches('#check input') || !target.files.length) return
  check(target.files[0])
  target.value = '' // so that the same file can be chosen again
})
document.addEventListener('click', ({ target }) => {
  if (target.id === 'use-recipe') fillFrom(checked)
  else if (target.closest('#withdraw')) checked = null
})

let spokenFinding = ''
onChange.push(() => {
  const words = document.querySelector('#found ul')?.innerText || ''
  if (words !== spokenFinding) speak(words)
  spokenFinding = words
})
