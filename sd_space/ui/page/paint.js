// Painting over the part of a picture that is to change: strokes on a canvas, which become a mask, white on black.
const painter = () => document.getElementById('painter')
const easel = () => painter().querySelector('canvas')
const KEY_STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
let strokes = [] // each has a width and points, in pixels of the picture
let stroke = null // the one that is being painted
let brushAt = null // where the keyboard has led the brush

const brushWidth = () => easel().width * painter().querySelector('input').value / 100

const drawStrokes = (context, color) => {
  Object.assign(context, { strokeStyle: color, lineCap: 'round', lineJoin: 'round' })
  for (const { width, points } of strokes) {
    context.lineWidth = width
    context.beginPath()
    context.moveTo(...points[0])
    for (const [x, y] of points) context.lineTo(x + 0.01, y) // a line without a length would not be seen
    context.stroke()
  }
}

const showStrokes = () => {
  const context = easel().getContext('2d')
  context.clearRect(0, 0, easel().width, easel().height)
  drawStrokes(context, '#e11d48')
  if (!brushAt) return
  context.lineWidth = 2
  context.beginPath()
  context.arc(...brushAt, brushWidth() / 2, 0, 2 * Math.PI)
  context.stroke()
}

const maskOfStrokes = () => {
  if (!strokes.length) return ''
  const canvas = Object.assign(document.createElement('canvas'), { width: easel().width, height: easel().height })
  const context = canvas.getContext('2d')
  context.fillRect(0, 0, canvas.width, canvas.height)
  drawStrokes(context, 'white')
  return canvas.toDataURL('image/png')
}

const keepStrokes = (changed) => {
  strokes = changed
  showStrokes()
  setStart({ init_image: start.init_image, mask: maskOfStrokes() })
}

const openPainter = async () => {
  const image = painter().querySelector('img')
  image.src = start.init_image
  await image.decode()
  Object.assign(easel(), { width: image.naturalWidth, height: image.naturalHeight })
  painter().hidden = false
  setAttribute(document.getElementById('paint'), 'aria-expanded', 'true')
  showStrokes()
  easel().focus({ preventScroll: true })
  painter().scrollIntoView({ block: 'nearest' }) // with its tools
}

const hidePainter = () => {
  painter().hidden = true
  setAttribute(document.getElementById('paint'), 'aria-expanded', 'false')
}

// With another picture, or none, nothing of this one stays.
const closePainter = () => {
  if (!painter()) return
  strokes = []
  stroke = brushAt = null
  hidePainter()
  painter().querySelector('img').removeAttribute('src')
  Object.assign(easel(), { width: 0, height: 0 })
}

const pointOf = ({ clientX, clientY }) => {
  const { left, top, width, height } = easel().getBoundingClientRect()
  return [(clientX - left) * easel().width / width, (clientY - top) * easel().height / height]
}

document.addEventListener('pointerdown', (event) => {
  if (!event.target.matches('#painter canvas') || event.button) return
  event.target.setPointerCapture(event.pointerId)
  brushAt = null
  stroke = { width: brushWidth(), points: [pointOf(event)] }
  strokes = [...strokes, stroke]
  showStrokes()
})
document.addEventListener('pointermove', (event) => {
  if (!stroke) return
  const moves = event.getCoalescedEvents?.() || []
  stroke.points.push(...(moves.length ? moves : [event]).map(pointOf))
  showStrokes()
})
for (const kind of ['pointerup', 'pointercancel']) {
  document.addEventListener(kind, () => {
    if (stroke) keepStrokes(strokes)
    stroke = null
  })
}

document.addEventListener('keydown', (event) => {
  if (!event.target.matches('#painter canvas')) return
  const { width, height } = easel(), step = KEY_STEPS[event.key]
  if (!step && event.key !== ' ') return
  event.preventDefault()
  brushAt ??= [width / 2, height / 2]
  if (!step) return keepStrokes([...strokes, { width: brushWidth(), points: [brushAt] }])
  const far = brushWidth() / 2
  brushAt = [[0, width], [1, height]].map(([axis, end]) => Math.min(end, Math.max(0, brushAt[axis] + step[axis] * far)))
  showStrokes()
})

document.addEventListener('click', ({ target }) => {
  if (target.id === 'paint') painter().hidden ? openPainter() : hidePainter()
  else if (target.id === 'undo-stroke') keepStrokes(strokes.slice(0, -1))
  else if (target.id === 'clear-strokes') keepStrokes([])
  else if (target.id === 'end-painting') {
    hidePainter()
    document.getElementById('paint').focus()
  }
})
