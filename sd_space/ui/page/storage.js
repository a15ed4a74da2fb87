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
