/** Every command of `hatch`, in the order of the help. */
import type { Command } from './command.ts';
import { aliasCommand } from './commands/alias.ts';
import { deployCommand } from './commands/deploy.ts';
import { doctorCommand } from './commands/doctor.ts';
import { imageCommands } from './commands/image.ts';
import { invokeCommand } from './commands/invoke.ts';
import { logsCommand } from './commands/logs.ts';
import { lsCommand } from './commands/ls.ts';
import { rmCommand } from './commands/rm.ts';
import { rollbackCommand } from './commands/rollback.ts';
import { secretCommands } from './commands/secret.ts';
import { topCommand } from './commands/top.ts';
import { traceCommand } from './commands/trace.ts';
import { upCommand } from './commands/up.ts';
import { versionsCommand } from './commands/versions.ts';
import { volumeCommands } from './commands/volume.ts';

export const commands: readonly Command[] = [
  upCommand,
  deployCommand,
  invokeCommand,
  lsCommand,
  versionsCommand,
  rollbackCommand,
  aliasCommand,
  rmCommand,
  ...secretCommands,
  ...volumeCommands,
  logsCommand,
  traceCommand,
  topCommand,
  ...imageCommands,
  doctorCommand,
];
