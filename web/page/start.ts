// startOf is the text behind # in an address: a link as it is, or any text that was
// encoded as a whole.
export function startOf(hash: string): string {
  const text = hash.replace(/^#/, '')
  if (text.includes('://')) return text
  try {
    return decodeURIComponent(text)
  } catch {
    return text // a lone % is no encoding
  }
}
