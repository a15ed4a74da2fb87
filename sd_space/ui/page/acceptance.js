// An acceptance that is withdrawn in one tab is withdrawn in all of them.
window.addEventListener('storage', ({ key, newValue }) => {
  if (key === 'sd_space.token' && !newValue) location.reload()
})
