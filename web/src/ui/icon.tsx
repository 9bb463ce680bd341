// Drawn for this interface, on a grid of 16.
const paths = {
  connections: 'M2 5h9M8 2l3 3-3 3M14 11H5M8 8l-3 3 3 3',
  explain: 'M6.5 11a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9M10 10l4 4M5 5.2a1.6 1.6 0 1 1 2 1.6v.7M7 9h0',
  state: 'M1 9h3l2-5 4 8 2-3h3',
  uplinks: 'M2 13V9M6 13V5M10 13V7M14 13V2',
  policy: 'M4 1.5h6l3 3v10H4zM10 1.5v3h3M6 8h5M6 11h5',
  change: 'M3 5h10l-3-3M13 11H3l3 3',
  xray: 'M2 2h4v4H2zM10 2h4v4h-4zM2 10h4v4H2zM10 10h1.5v1.5M14 10v0M14 14v0M10 14h1.5',
  logs: 'M2 3h12M2 6.5h8M2 10h12M2 13.5h6',
  settings: 'M2 4h6M12 4h2M10 2.5v3M2 8h2M8 8h6M6 6.5v3M2 12h7M13 12h1M11 10.5v3',
  menu: 'M2 4h12M2 8h12M2 12h12',
  close: 'M3.5 3.5l9 9M12.5 3.5l-9 9',
  sun: 'M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1',
  moon: 'M13.5 9.5A6 6 0 0 1 6.5 2.5a6 6 0 1 0 7 7',
  auto: 'M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12',
  pause: 'M5 3v10M11 3v10',
  play: 'M4 2.5l9 5.5-9 5.5z',
  kill: 'M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12M4 4l8 8',
  pin: 'M6 2h4M7 2v5L4.5 9.5h7L9 7V2M8 9.5V14',
  plus: 'M8 3v10M3 8h10',
  copy: 'M5 5h9v9H5zM11 5V2H2v9h3',
  check: 'M2.5 8.5l3.5 4 7.5-9',
  alert: 'M8 2l6.5 11.5h-13zM8 6.5v3M8 11.5v0',
  infoMark: 'M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12M8 7.5V11M8 5v0',
  key: 'M5.5 13a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5M7.5 8.5L13 3M11 5l2 2',
  help: 'M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12M6.3 6.2A1.8 1.8 0 1 1 8.2 8v1.2M8.1 11.5v0',
  undo: 'M3 7h7a3.5 3.5 0 0 1 0 7H7M6 3.5L2.5 7 6 10.5',
  back: 'M10 3L5 8l5 5',
  out: 'M6 2H2v12h4M10 5l4 3-4 3M14 8H6',
} as const
export type IconName = keyof typeof paths

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="i" viewBox="0 0 16 16" aria-hidden="true">
      <path d={paths[name]} />
    </svg>
  )
}
