export function bootInit(): void {
  throw new Error('unused');
}
export function bootFunction(): void {
  throw new Error('unused');
}
