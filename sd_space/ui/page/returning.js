// Whoever has accepted the licence before does not see its gate while the server is asked; see `first_paint.css`.
try {
  if (localStorage.getItem('sd_space.token')) document.documentElement.classList.add('returning')
} catch (error) {}
