// The text named "parameters" in a PNG, where tools for pictures keep settings; '' where there is none.
const MAX_TEXT = 10000
const LATIN1 = new TextDecoder('latin1'), UTF8 = new TextDecoder('utf-8', { fatal: true })

const inflated = async (bytes) => {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate')).getReader()
  const parts = []
  for (let size = 0; size <= 4 * MAX_TEXT;) { // no more than can be used, whatever it unpacks to
    const { done, value } = await reader.read()
    if (done) break
    parts.push(value)
    size += value.length
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer())
}

const decoded = (bytes) => {
  try { return UTF8.decode(bytes) } catch { return LATIN1.decode(bytes) }
}

// The fields of a chunk that end with a zero byte, and the rest: https://www.w3.org/TR/png-3/#11textinfo
const chunkText = async (kind, data) => {
  const end = data.indexOf(0)
  if (LATIN1.decode(data.subarray(0, end)) !== 'parameters') return ''
  if (kind === 'tEXt') return decoded(data.subarray(end + 1))
  if (kind === 'zTXt') return decoded(await inflated(data.subarray(end + 2)))
  const language = data.indexOf(0, end + 3), keyword = data.indexOf(0, language + 1)
  const bytes = data.subarray(keyword + 1)
  return decoded(data[end + 1] ? await inflated(bytes) : bytes)
}

const parametersOf = async (file) => {
  try {
    const buffer = await file.arrayBuffer(), view = new DataView(buffer)
    if (view.getUint32(0) !== 0x89504e47) return ''
    for (let at = 8; at + 12 <= buffer.byteLength;) {
      const length = view.getUint32(at), kind = LATIN1.decode(new Uint8Array(buffer, at + 4, 4))
      if (['tEXt', 'zTXt', 'iTXt'].includes(kind)) {
        const text = await chunkText(kind, new Uint8Array(buffer, at + 8, length))
        if (text) return text.slice(0, MAX_TEXT + 1)
      }
      at += 12 + length
    }
  } catch {} // a damaged file has no settings
  return ''
}
