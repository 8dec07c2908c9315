/** How a process that stopped itself after a step of a start shows which one it was. */
import type { StockName } from '../../host/base/ready-stock.ts';

const prefix = 'hatch-step:';

export type StockStep = `${'before' | 'after'} ${StockName}`;

/** A stock makes one ahead. */
export function stockStep(when: 'before' | 'after', name: StockName): StockStep {
  return `${when} ${name}`;
}

export function titleOfStep(step: string): string {
  return prefix + step;
}

export function stepInTitle(command: string): string | undefined {
  return command.startsWith(prefix) ? command.slice(prefix.length).trim() : undefined;
}
