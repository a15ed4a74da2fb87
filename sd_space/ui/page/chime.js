// Two soft tones when pictures are ready, for those who have ticked the box. Browsers want it prepared by a gesture.
let audio = null
let wantsChime = false
document.addEventListener('change', ({ target }) => {
  if (!target.matches('#chime input')) return
  wantsChime = target.checked
  audio ??= new AudioContext()
  if (wantsChime) playChime()
})

const playChime = () => {
  if (!wantsChime) return
  for (const [index, hertz] of [660, 880].entries()) {
    const start = audio.currentTime + 0.15 * index
    const tone = new OscillatorNode(audio, { frequency: hertz })
    const volume = new GainNode(audio, { gain: 0.15 })
    volume.gain.setTargetAtTime(0, start + 0.05, 0.1)
    tone.connect(volume).connect(audio.destination)
    tone.start(start)
    tone.stop(start + 0.6)
  }
}
