/** A thread that waits for a bell, and then says so. */
import { parentPort, workerData } from 'node:worker_threads';
import { waitForBell } from '../../../host/sys/process.ts';

const { bell, socket } = workerData as { bell: number; socket: number };
parentPort?.postMessage('waits');
waitForBell(bell, socket);
parentPort?.postMessage('awake');
