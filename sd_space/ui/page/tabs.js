// A link into another tab: that tab is opened first.
document.addEventListener('click', (event) => {
  if (!event.target.closest('a[href="#screened"]')) return
  event.preventDefault()
  document.getElementById('about-button').click()
  waitsForScreened = true
})
let waitsForScreened = false
onChange.push(() => {
  const heading = waitsForScreened && document.getElementById('screened')
  if (!heading || !heading.checkVisibility()) return
  waitsForScreened = false
  heading.scrollIntoView()
  heading.focus()
})
