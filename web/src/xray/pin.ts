// pinOf is the SHA-256 of the first certificate in a PEM text, as Xray's
// pinnedPeerCertSha256 wants it: 64 hexadecimal digits of the whole certificate.
export async function pinOf(pem: string): Promise<string> {
  const body = /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----/.exec(pem)?.[1]
  if (!body) throw new Error('no certificate')
  const der = Uint8Array.from(atob(body.replace(/\s/g, '')), (c) => c.charCodeAt(0))
  // A certificate is a SEQUENCE with a length of two bytes that covers all of it.
  if (der[0] !== 0x30 || der[1] !== 0x82 || ((der[2]! << 8) | der[3]!) !== der.length - 4) throw new Error('no certificate')
  const sum = new Uint8Array(await crypto.subtle.digest('SHA-256', der))
  return [...sum].map((b) => b.toString(16).padStart(2, '0')).join('')
}
