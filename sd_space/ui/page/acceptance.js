// An acceptance that is withdrawn in one tab is withdrawn in all of them, and none keeps words for the next person.
window.addEventListener('storage', ({ key, newValue }) => {
  if (key !== 'sd_space.token' || newValue) return
  sessionStorage.removeItem('sd_space.draft')
  location.reload()
})
