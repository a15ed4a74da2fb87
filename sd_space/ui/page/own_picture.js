// A visitor's own picture as a start: chosen, taken, pasted or dropped, and scaled down here. That drops its metadata too.
const scaledDown = async (file) => {
  const bitmap = await createImageBitmap(file)
  const side = Number(document.querySelector('#banner [data-side]')?.dataset.side) || 512
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height))
  const canvas = document.createElement('canvas')
  canvas.width = Math.max(1, Math.round(bitmap.width * scale))
  canvas.height = Math.max(1, Math.round(bitmap.height * scale))
  const context = canvas.getContext('2d')
  Object.assign(context, { fillStyle: 'white', imageSmoothingQuality: 'high' })
  context.fillRect(0, 0, canvas.width, canvas.height) // behind what is transparent
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height)
  bitmap.close()
  return canvas.toDataURL('image/jpeg', 0.95)
}

const startFrom = async (file) => {
  try {
    setStart({ init_image: await scaledDown(file) })
    speak(translate('The next pictures start from your picture.'))
    showPrompt()
  } catch {
    notify(translate('This browser cannot read that file as a picture; choose a PNG, a JPEG or a WebP.'))
  }
}

document.addEventListener('change', ({ target }) => {
  if (!target.matches('#own-picture input') || !target.files.length) return
  startFrom(target.files[0])
  target.value = '' // so that the same file can be chosen again
})

document.addEventListener('paste', (event) => {
  const { files, types } = event.clipboardData
  const picture = [...files].find(({ type }) => type.startsWith('image/'))
  if (!picture || types.includes('text/plain') || !document.getElementById('start')?.closest('#workspace')) return
  event.preventDefault()
  startFrom(picture)
})
