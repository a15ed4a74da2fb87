// Some frames may keep nothing: then each reload asks for the licence again, and the visitor should know why.
const showWithoutStorage = () => {
  const note = document.querySelector('#no-storage')
  if (note?.hidden) note.hidden = false
  const link = note?.querySelector('a')
  if (link) setAttribute(link, 'href', location.href)
}
try {
  localStorage.getItem('')
} catch (error) {
  onChange.push(showWithoutStorage)
}

// An acceptance that is withdrawn in one tab is withdrawn in all of them, and none keeps words for the next person.
window.addEventListener('storage', ({ key, newValue }) => {
  if (key !== 'sd_space.token' || newValue) return
  sessionStorage.removeItem('sd_space.draft')
  location.reload()
})
