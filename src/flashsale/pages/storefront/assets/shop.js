// Pages that only need the visitor's own times.
import { localTimes } from "./page.js";

localTimes();
