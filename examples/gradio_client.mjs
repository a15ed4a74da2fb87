// Draws a picture from JavaScript with Gradio's own client, which `npm install @gradio/client` brings:
// node examples/gradio_client.mjs http://127.0.0.1:7860 TOKEN "a small cabin on a snowy mountain"
import { Client } from '@gradio/client'

const [url, token, prompt] = process.argv.slice(2)
const client = await Client.connect(url)
const job = client.submit('/generate', { prompt, num_images_per_prompt: 1, acceptance_token: token })
for await (const event of job) {
  if (event.type === 'status' && event.stage === 'error') {
    console.error(event.message)
    process.exit(1)
  }
  const [files, result] = event.type === 'data' ? event.data : [[], {}]
  if (result.progress) console.error(result.progress)
  if (result.images) console.log(files[0].url, result.images[0].outcome)
}
process.exit(0)
