// QR codes, drawn and read; loaded by those who need it.
import encode from 'qr'
import type decodeQR from 'qr/decode.js'
import type { FinderPoints } from 'qr/decode.js'

// path is a code as the path of a picture of size units square, with the quiet
// zone of four modules that readers need.
export function path(text: string): { size: number; d: string } {
  const rows = encode(text, 'raw', { ecc: 'low', border: 4 })
  let d = ''
  rows.forEach((row, y) => {
    for (let x = 0; x < row.length; x++) {
      if (!row[x]) continue
      let end = x + 1
      while (row[end]) end++
      d += `M${x} ${y}h${end - x}v1h${x - end}z`
      x = end
    }
  })
  return { size: rows.length, d }
}

interface Detector { detect: (source: ImageBitmap) => Promise<{ rawValue: string }[]> }
interface DetectorType {
  new (options: { formats: string[] }): Detector
  getSupportedFormats: () => Promise<string[]>
}

// Pictures from cameras are larger than a code needs; what is larger is scaled down.
const mostPixels = 1600

// codes returns the texts of the codes in a picture of RGBA, also of those that are
// light on dark. What was found is painted over, up to 32 times.
export function codes(decode: typeof decodeQR, width: number, height: number, pixels: Uint8ClampedArray): string[] {
  const found = new Set<string>()
  for (const flip of [0, 255]) {
    const data = pixels.map((v, i) => (i % 4 < 3 ? v ^ flip : v))
    try {
      for (let n = 0; n < 32; n++) {
        let box!: FinderPoints['boundingBox']
        found.add(decode({ width, height, data }, { timeLimit: 500, pointsOnDetect: (p) => (box = p.boundingBox) }))
        for (let y = Math.max(0, Math.floor(box.y)); y < box.y + box.height; y++) data.fill(255, (y * width + Math.floor(box.x)) * 4, (y * width + Math.ceil(box.x + box.width)) * 4)
      }
    } catch {
      // There is no further one.
    }
  }
  return [...found]
}

// read returns the texts of the codes in a picture, none where there is none, and null
// if it is no picture. The browser's own reader goes first; where there is none, or it
// finds nothing, ours.
export async function read(picture: Blob): Promise<string[] | null> {
  const whole = await createImageBitmap(picture).catch(() => null)
  if (!whole) return null
  const scale = Math.min(1, mostPixels / Math.max(whole.width, whole.height))
  const own = (globalThis as { BarcodeDetector?: DetectorType }).BarcodeDetector
  if (own && (await own.getSupportedFormats()).includes('qr_code')) {
    const found = await new own({ formats: ['qr_code'] }).detect(whole).catch(() => [])
    if (found.length > 0) return found.map((f) => f.rawValue)
  }
  const canvas = document.createElement('canvas')
  canvas.width = Math.max(1, Math.round(whole.width * scale))
  canvas.height = Math.max(1, Math.round(whole.height * scale))
  const ctx = canvas.getContext('2d')!
  // Transparent pictures of codes are meant to lie on white.
  ctx.fillStyle = '#fff'
  ctx.fillRect(0, 0, canvas.width, canvas.height)
  ctx.drawImage(whole, 0, 0, canvas.width, canvas.height)
  const { default: decode } = await import('qr/decode.js')
  return codes(decode, canvas.width, canvas.height, ctx.getImageData(0, 0, canvas.width, canvas.height).data)
}
