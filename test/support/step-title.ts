/** How a process that stopped itself after a step of a start shows which one it was. */
const prefix = 'hatch-step:';

export function titleOfStep(step: string): string {
  return prefix + step;
}

export function stepInTitle(command: string): string | undefined {
  return command.startsWith(prefix) ? command.slice(prefix.length).trim() : undefined;
}
