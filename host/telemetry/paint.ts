/** Colors of the terminal, or none. */
import { styleText } from 'node:util';

export type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan' | 'blue';
export type Paint = (style: Style, text: string) => string;

export function painter(colors: boolean): Paint {
  return colors
    ? (style, text) => styleText(style, text, { validateStream: false })
    : (_, text) => text;
}
