/** Three digits, in the unit in which a reader would say it: "874 µs", "2.41 ms", "1.20 s". */
export function formatDuration(ns: number): string {
  if (ns < 999.5) return `${Math.round(ns)} ns`;
  if (ns < 999_500) return `${threeDigits(ns / 1e3)} µs`;
  if (ns < 999_500_000) return `${threeDigits(ns / 1e6)} ms`;
  return `${threeDigits(ns / 1e9)} s`;
}

/** In binary units, as the sizes of memory and files are: "512 B", "8.00 MiB". */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : threeDigits(value)} ${units[unit] ?? ''}`;
}

/** Paths and messages come from functions: they must not steer the terminal. */
export function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are what it looks for
  return text.replaceAll(/[\u0000-\u001F\u007F-\u009F]/g, '�');
}

function threeDigits(value: number): string {
  if (value < 9.995) return value.toFixed(2);
  return value < 99.95 ? value.toFixed(1) : value.toFixed(0);
}
