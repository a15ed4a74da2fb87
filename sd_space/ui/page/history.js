// Earlier pictures: small copies and recipes of the last ones, in this browser's IndexedDB and nowhere else.
const MAX_EARLIER = 60
const COPY_SIZE = 128 // pixels of the longer side

// What `work` asks of the store of copies; nothing where the browser keeps nothing for this page.
const withCopies = (work) => new Promise((resolve) => {
  try {
    const opening = indexedDB.open('sd_space', 1)
    opening.onupgradeneeded = () => opening.result.createObjectStore('copies', { keyPath: 'key' })
    opening.onerror = opening.onblocked = () => resolve([])
    opening.onsuccess = () => {
      const transaction = opening.result.transaction('copies', 'readwrite')
      const asked = work(transaction.objectStore('copies'))
      transaction.oncomplete = () => { opening.result.close(); resolve(asked?.result ?? []) }
      transaction.onabort = () => { opening.result.close(); resolve([]) }
    }
  } catch { resolve([]) }
})
const allCopies = async () => (await withCopies((copies) => copies.getAll())).sort((a, b) => b.at - a.at)

const smallCopy = async (image) => {
  await image.decode()
  const scale = COPY_SIZE / Math.max(image.naturalWidth, image.naturalHeight)
  const canvas = document.createElement('canvas')
  canvas.width = Math.round(image.naturalWidth * scale)
  canvas.height = Math.round(image.naturalHeight * scale)
  canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height)
  return canvas.toDataURL('image/webp', 0.8)
}

let kept = '' // the run whose pictures were kept last, or are not to be kept
const keepPictures = async ({ run, recipe, pictures }) => {
  if (kept === run) return
  const paths = JSON.parse(pictures)
  const shown = [...document.querySelectorAll('#gallery img')]
  const images = paths.map((path) => shown.find(({ src }) => decodeURI(src).endsWith(path)))
  if (images.includes(undefined)) return // the gallery is still to come
  kept = run
  const copies = (await Promise.all(images.map(smallCopy))).map((copy, index) => (
    { key: `${run} ${index}`, run, recipe, copy, at: Date.now() - index / 100 }
  ))
  const known = new Set((await allCopies()).map((each) => each.run))
  if (known.has(run)) return // after a reload
  await withCopies((store) => { copies.forEach((copy) => store.put(copy)) })
  const old = (await allCopies()).slice(MAX_EARLIER)
  await withCopies((store) => { old.forEach(({ key }) => store.delete(key)) })
  showHistory()
}

const thumbnail = ({ run, recipe, copy, at }) => {
  const image = Object.assign(new Image(), { src: copy, alt: '' })
  const button = Object.assign(document.createElement('button'), { type: 'button' })
  const values = new URLSearchParams(recipe), parent = values.get('init_image_seed')
  const from = parent ? translate(', from seed {seed}', { seed: parent }) : translate(', from a picture that was brought')
  button.ariaLabel = `${values.get('prompt')}${values.has('init_image') ? from : ''}, ${new Date(at).toLocaleString()}`
  button.title = button.ariaLabel
  button.append(image)
  button.addEventListener('click', () => { ask('ask-run', run, recipe); showPrompt(); warnWithoutSource(recipe) })
  const item = document.createElement('li')
  item.append(button)
  return item
}

const showHistory = async () => {
  const copies = (await allCopies()).filter(({ copy }) => copy)
  const history = document.getElementById('history')
  if (!history) return
  history.querySelector('ul').replaceChildren(...copies.map(thumbnail))
  history.hidden = !copies.length
}

// `run` is on the page, from which it would be kept again after a reload.
const forget = (run) => withCopies((store) => {
  store.clear()
  if (run) store.put({ key: run, run, at: Date.now() })
})

document.addEventListener('click', async ({ target }) => {
  if (target.id === 'forget') {
    await forget(kept)
    showHistory()
    focusIfLost(document.querySelector('#prompt textarea'))
  } else if (target.closest('#withdraw')) forget()
})

let hasAcceptance = false
try { hasAcceptance = Boolean(localStorage.getItem('sd_space.token')) } catch {}
// What is left is somebody else's, or from a time when copies were kept.
if (!hasAcceptance || !keepsHistory) forget()

let filled = null // the element that shows the copies
onChange.push(() => {
  const history = document.getElementById('history')
  if (history !== filled) {
    filled = history
    if (history) showHistory()
  }
  const isDrawing = Boolean(document.getElementById('cancel')?.checkVisibility())
  if (history && history.inert !== isDrawing) history.inert = isDrawing
  const record = document.querySelector('#record [data-run]')
  if (history && record) keepPictures(record.dataset)
})
