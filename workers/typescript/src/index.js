export { Failure, LATER, currentContext } from "./attempt.js";
export { Refused } from "./host.js";
export { Worker } from "./worker.js";
