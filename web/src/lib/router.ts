import { signal } from '@preact/signals'

// A place is what stands behind # in the address: a page, and what it shows.
// Nothing of it goes to the server, so the files can lie anywhere.
export interface Place { page: string; params: URLSearchParams }

export function parse(hash: string): Place {
  const [page = '', query = ''] = hash.replace(/^#\/?/, '').split('?', 2)
  return { page, params: new URLSearchParams(query) }
}

export const place = signal<Place>(parse(location.hash))
addEventListener('hashchange', () => (place.value = parse(location.hash)))

export function link(page: string, params: Record<string, string> = {}): string {
  const query = new URLSearchParams(params).toString()
  return `#/${page}${query && `?${query}`}`
}

// keep writes what a page shows into its address, so that Back finds it again.
export function keep(params: Record<string, string>): void {
  history.replaceState(null, '', link(place.value.page, params))
}

export function go(page: string, params: Record<string, string> = {}): void {
  location.hash = link(page, params)
}
