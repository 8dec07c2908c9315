/** Runs when the function is bundled: `node build.ts OUTPUT` makes OUTPUT/ledger.db. */
import { join } from 'node:path';
import { makeDatabase } from './make-database.ts';

const [output] = process.argv.slice(2);
if (output === undefined) throw new Error('Give the output directory');
makeDatabase(join(output, 'ledger.db'));
